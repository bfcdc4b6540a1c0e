"""Items, conversations and the data that textanchor may ship or draw itself."""
