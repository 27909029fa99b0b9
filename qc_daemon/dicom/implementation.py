"""How this implementation names itself on the wire and in files (PS3.7 D.3.3.2, PS3.10 7.1).

Both are constants: they stand in every received file's meta group, so a name that changed with the
release would give the same object other bytes and another SHA-256 after each upgrade.
"""

IMPLEMENTATION_CLASS_UID = "2.25.142857958582252099662572707024426216067"
IMPLEMENTATION_VERSION_NAME = "QC_DAEMON"
DOCTOR_AE_TITLE = "QCDOCTOR"
"""The calling AE title of `qc-daemon doctor` where it asks our own receiver."""
MANUFACTURER = "qc-daemon project"
"""(0008,0070) of every object made here; by it a report of ours is known when it comes back."""
