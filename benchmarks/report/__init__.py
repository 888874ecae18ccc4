"""Results: as data, tables, pictures, pages, and beside older ones."""
