"""The acceptor's side of an association: pynetdicom's, without its polling and its copies.

pynetdicom reads its socket in 4,096-byte pieces, copies a data set five times, and has two threads
an association that wake up a thousand times a second. The subclasses here wait for what they need,
let the bytes of a C-STORE go from the socket straight into the spool's buffer, and answer it in the
thread that has read it. Everything else (state machine, negotiation, DIMSE, services, and any
C-STORE that is not the usual one) stays pynetdicom's; nothing of it is changed for others in the
process. What we override is pinned by tests/receive/test_upper_layer.py.
"""
