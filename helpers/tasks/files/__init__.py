"""Files in, tables out: one module for each format, and `tables`, which finds out what a file is."""
