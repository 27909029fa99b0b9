"""HL7 v2 over MLLP: frames, messages about patients, and the receiver."""
