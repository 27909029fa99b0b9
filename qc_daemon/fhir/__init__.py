"""An exam's result as FHIR R4: what the SR says, as DiagnosticReport and Observation."""
