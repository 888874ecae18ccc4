"""Results as data, tables, plots and pages, and their comparison with older ones."""
