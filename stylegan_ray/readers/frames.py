"""The frames that a reader's child process and its parent exchange."""

import struct

REQUEST = struct.Struct("<QI")
"""Number of an image and bytes of its name, which follows."""
REPLY = struct.Struct("<cQ")
"""Kind and bytes of what follows."""
GOOD, BAD_IMAGE, BAD_FILE = b"+", b"!", b"#"
"""Contents or an image file; why an image, or the whole file, cannot be read."""
