"""Who made an image and with what: facts of acquisition, persons and devices."""
