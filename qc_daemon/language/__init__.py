"""Languages and fonts of everything that people read: pages, pictures, reports."""
