"""The filter language of datasets: from text to ``core.query`` values, and the check of one item in plain Python."""
