"""De-identification of images (PS3.15 Annex E), pure: what of a header may stay, which pixels are
blanked, pseudonyms, and the file that is written."""
