"""A patient as a model sees one: table, prior codes, hourly grid; and subgroups for reports."""
