"""Log-ins that another program vouches for: an OpenID provider, or a proxy."""
