"""The acceptor's side of an association: pynetdicom's, without its polling and its copies.

pynetdicom reads its socket in pieces of 4,096 bytes, copies a data set five times, and has two
threads for each association that wake up a thousand times a second. The subclasses here sleep until
there is something to do, write the bytes of a C-STORE from the socket straight into the spool's
buffer, and answer it in the thread that has read it. Everything else (state machine, negotiation,
DIMSE, services, and any C-STORE that is not the usual one) is pynetdicom's, and is changed for
nobody else in the process. tests/receive/test_upper_layer.py pins what we override.
"""
