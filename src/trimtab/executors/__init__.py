"""Where steps run: this process, or several on one machine."""
