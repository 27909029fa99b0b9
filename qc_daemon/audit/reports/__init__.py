"""Reports of audits, by person, device, site and exam: composed from values, then written.

What a report says is decided here once; the writers of HTML and PDF only lay it out. No report of a
person, device or site has anything of a patient but pictures of tissue.
"""
