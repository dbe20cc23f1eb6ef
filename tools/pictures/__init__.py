"""The pictures of the lessons, drawn in code: a module for each picture, or for each kind."""
