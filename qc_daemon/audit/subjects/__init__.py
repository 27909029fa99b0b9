"""What an audit says of a person, device or site: measures, histories, flags."""
