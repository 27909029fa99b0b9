"""FetalCLIP: a CLIP of fetal ultrasound, for planes and gestational age by words alone."""
