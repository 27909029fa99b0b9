"""Commands of FetalCLIP: checkpoints, prompts, ages, maps, masks, usable frames, students."""
