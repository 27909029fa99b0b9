"""Pages for people: a module for each, with its template."""
