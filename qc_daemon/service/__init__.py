"""The processes: the supervisor and the roles that it starts."""
