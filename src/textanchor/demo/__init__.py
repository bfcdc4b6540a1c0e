"""The main job: adapt the embedded model plainly and with its anchor held, and report what each one kept."""
