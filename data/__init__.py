"""Where reviews come from: sources, the table, validation, splits. ``imdb.csv`` is written here."""
