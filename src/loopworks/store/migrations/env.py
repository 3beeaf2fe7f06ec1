"""How Alembic runs here: inside the transaction that the catalog opened, so that all of it holds or none."""

from alembic import context

from loopworks.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
