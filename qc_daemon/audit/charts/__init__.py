"""Charts of audits as drawings, written as SVG text or drawn into a PDF; pure.

A chart is a drawing with a title and a description, and a table of the same numbers. Meaning is in
shape and words, never in colour alone; the greys stay apart on a printer.
"""
