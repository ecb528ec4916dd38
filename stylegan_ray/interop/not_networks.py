"""Files that are not what their name says: error pages, pointers, incomplete downloads, networks of other programs."""

from __future__ import annotations

import re

from stylegan_ray.untrusted import describe_pointer

EXPECTED = (
    "expected a network file: .safetensors of stylegan_ray, .pkl of NVIDIA's StyleGAN, StyleGAN2 or StyleGAN2-ADA "
    "programs, or .pt of rosinality's stylegan2-pytorch"
)
STYLEGAN3 = (
    f"{EXPECTED}; found a network of StyleGAN3, whose layers differ. Use NVIDIA's StyleGAN3 programs for it, or a "
    "StyleGAN2 network of the same data (stylegan2-*.pkl)"
)
HTML = re.compile(rb"\s*(<!doctype\s+html|<html|<head|<\?xml)", re.IGNORECASE)


def describe_other_file(content: bytes) -> str:
    """What was expected, what a file that no reader knows begins with, and what to do."""
    if not content:
        return f"{EXPECTED}; found an empty file. Download or copy it again"
    if pointer := describe_pointer(content):
        return f"{EXPECTED}; found {pointer}. Run `git lfs pull`, or download the file itself"
    if HTML.match(content[:1024].removeprefix(b"\xef\xbb\xbf")):
        title = re.search(rb"<title[^>]*>([^<]{1,80})", content[:4096], re.IGNORECASE)
        named = f" titled {title[1].decode('utf-8', 'replace').strip()!a}" if title else ""
        return (
            f"{EXPECTED}; found an HTML page{named}: the download gave a web page, not the file. Open the address in "
            "a browser, or use the link of the file itself"
        )
    return f"{EXPECTED}; found neither: the file begins with {content[:12]!r}. Check that it is the right one"
