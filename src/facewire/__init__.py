"""Facewire finds faces where the camera is and recognises them wherever that is cheapest."""
