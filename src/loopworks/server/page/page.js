"use strict";
// The workspace page: reads the same routes that any client may use. Text is set as text, never as HTML.

const token = new URLSearchParams(location.hash.slice(1)).get("token");
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const find = (id) => document.getElementById(id);

async function get(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  const body = await answer.json();
  if (!answer.ok) throw new Error([body.error.message, body.error.hint].filter(Boolean).join(" - "));
  return body;
}

function make(kind, text = "", name = "") {
  const node = document.createElement(kind);
  node.textContent = text;
  if (name) node.className = name;
  return node;
}

function table(columns, rows) {
  if (!rows.length) return make("p", "none yet", "none");
  const node = make("table");
  const numeric = columns.map((_, i) => rows.every((row) => typeof row[i] === "number"));
  const head = node.createTHead().insertRow();
  columns.forEach((text, i) => head.append(make("th", text, numeric[i] ? "number" : "")));
  const body = node.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((cell, i) => {
      const td = make("td", "", numeric[i] ? "number" : "");
      td.append(cell instanceof Node ? cell : String(cell));
      line.append(td);
    });
  }
  return node;
}

function show(id, columns, rows) {
  find(id).replaceChildren(table(columns, rows));
}

function bar(job) {
  if (job.error) return make("span", job.error.error.message);
  if (job.status !== "running") return make("span", job.status === "done" ? "" : job.text);
  const node = make("span");
  const progress = document.createElement("progress");
  progress.value = job.share;
  node.append(progress, ` ${job.text}`);
  return node;
}

function score(model) {
  const scores = model.metrics.test || model.metrics.val || {};
  const [name] = Object.keys(scores);
  if (!name) return "-";
  const { value, low, high } = scores[name];
  return `${name} ${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`;
}

// A model never changes, so what its bundle says is asked for once.
const bundles = new Map();

async function latency(model) {
  if (!bundles.has(model.ref)) {
    bundles.set(model.ref, (await get(`/api/models/${encodeURIComponent(model.ref)}`)).bundle);
  }
  const used = bundles.get(model.ref).variants.find((variant) => variant.name === model.variant);
  const p50 = used && used.latency_ms.p50;
  return p50 ? `${p50.toPrecision(3)} ms` : "-";
}

async function refresh() {
  const [space, data, models, used, jobs, linked] = await Promise.all(
    ["workspace", "datasets", "models", "deployments", "jobs", "chains"].map((name) => get(`/api/${name}`)),
  );
  find("space").textContent = `${space.folder}, version ${space.loopworks}`;
  show("datasets", ["dataset", "task", "items", "labeled", "classes"],
    data.datasets.map((d) => [d.name, d.task, d.counts.items, d.counts.labeled, d.classes.length]));
  const newest = models.models.slice(0, 12);
  const times = await Promise.all(newest.map(latency));
  show("models", ["model", "variant", "test set", "one image", "version"],
    newest.map((m, i) => [m.ref, m.variant, score(m), times[i], m.version.slice(0, 12)]));
  show("deployments", ["name", "model", "variant", "revision"],
    [...used.deployments.map((d) => [d.name, `${d.model}:${d.number}`, d.variant, d.revision]),
      ...linked.chains.map((c) => [c.name, `chain of ${Object.values(c.graph.nodes).join(", ")}`, "", c.revision])]);
  show("jobs", ["job", "step", "status", ""],
    jobs.jobs.slice(0, 12).map((j) => [j.title || j.id, j.step, j.status, bar(j)]));
  const select = find("try").elements.deployment;
  const names = [...used.deployments, ...linked.chains].map((d) => d.name);
  if (names.join() !== [...select.options].map((o) => o.value).join()) {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  find("try").hidden = !names.length;
}

function drifted(report) {
  if (!report) return "not compared yet";
  const moved = report.columns.filter((column) => column.is_drift).map((column) => column.name);
  return moved.length ? `drift: ${moved.slice(0, 4).join(", ")}${moved.length > 4 ? " ..." : ""}` : "none";
}

function right(found) {
  const best = found.measured || found.estimated[0];
  if (!best) return "-";
  const text = `${best.value.toFixed(3)} [${best.low.toFixed(3)}, ${best.high.toFixed(3)}]`;
  return found.measured ? `${best.metric} ${text} on ${best.count}` : `${text}, ${best.note}`;
}

// What is watched changes slowly, and reading a long log takes a moment: asked for every half minute.
async function watched() {
  const names = (await get("/api/watches")).watches.map((watch) => watch.deployment);
  const found = await Promise.all(names.map((name) => get(`/api/deployments/${encodeURIComponent(name)}/watch`)));
  show("watched", ["deployment", "inbox", "logged", "drift", "right in use"],
    found.map((w) => [w.deployment, w.inbox.inbox || 0, w.logged, drifted(w.drift), right(w.accuracy)]));
}

// What the next models of a chain say of a thing, by their first words.
function further(then) {
  return Object.entries(then || {}).flatMap(([node, told]) => {
    const best = told.chosen ? told.chosen[0] : told.labels && told.labels.length && told.labels[0].label;
    const inner = (told.labels || []).filter((row) => row.then && (!told.chosen || told.chosen.includes(row.label)));
    return best ? [`${node}: ${best}`, ...inner.slice(0, 1).flatMap((row) => further(row.then))] : [];
  });
}

async function ask(file) {
  const name = find("try").elements.deployment.value;
  const preview = find("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  const body = await get(`/predict/${encodeURIComponent(name)}`, {
    method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" },
  });
  const found = body.predictions[0];
  find("labels").replaceChildren(...found.labels.slice(0, 5).map(({ label, score: value, then }) => {
    const line = make("li");
    const meter = document.createElement("meter");
    meter.value = value;
    line.append(make("span", [label, ...further(then)].join(" > ")), meter, make("span", value.toFixed(3)));
    return line;
  }));
  const chain = await get(`/api/lineage?of=${encodeURIComponent(found.id)}`);
  find("lineage").replaceChildren(...chain.lineage.map((n) => make("li", `${n.kind} ${n.id}`)));
}

// What went wrong with the user's last step stays until the next one; a failed refresh, until one works.
let failed = null;

async function safely(work) {
  const error = find("error");
  try {
    await work();
    if (work !== refresh || failed === refresh) error.hidden = true;
  } catch (reason) {
    failed = work;
    error.textContent = reason.message;
    error.hidden = false;
  }
}

const drop = document.querySelector(".drop");
find("try").elements.file.addEventListener("change", (event) => {
  if (event.target.files.length) safely(() => ask(event.target.files[0]));
});
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) safely(() => ask(event.dataTransfer.files[0]));
});
safely(refresh);
safely(watched);
setInterval(() => { if (!document.hidden) safely(watched); }, 30000);
setInterval(() => { if (!document.hidden) safely(refresh); }, 2000);
