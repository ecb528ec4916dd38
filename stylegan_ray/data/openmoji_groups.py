"""The group of every emoji of OpenMoji 17, compressed; `main` makes it from the npm package openmoji 17.0.0.

npm pack openmoji@17.0.0 && tar xzf openmoji-17.0.0.tgz package/data/openmoji.json
python -m stylegan_ray.data.openmoji_groups package/data/openmoji.json
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

GROUPS = (
    "smileys-emotion", "people-body", "animals-nature", "food-drink", "travel-places", "activities", "objects",
    "symbols", "flags", "component", "extras-openmoji", "extras-unicode",
)  # fmt: skip
"""Class names; the number of a class is its position here."""

CODES_SHA256 = "36c67c9c8ec7e38b0eb278b87748a8b133390c083b849c0190bf50f4811b7b12"
PACKED = (
    r"c-rlk+meGI3_!m%ASA5$|K|+}D56a3W%gmm(-xGXKnS@IF*U@<25sTgvv2v_%6$uuJ9FQ}gJF(`?Ap2SRvW%u2JdUOBBfqdO8A~h",
    r"@EI#><)=HuC|{>UC25J6e^Sc0azPkT>R7;n_IEc}hraf_OfGXEEV2qiNOPK3<Sy}mwEng9_p<WoC*v={-Mw?*9tL-~mvhXo2wp)i",
    r"0Kjr_;<TPPb^#Hfo>O1ipoI{m3xsAW9+0S<@PHqnQ9CW~z~YDw`z+{4Q+5cQ|02Jd**zGBl0)xfW4R9GufC-*XCf<mDLlqa&A7uC",
    r"u72=Pl5Mq3p{I1cr~s91F#Rak0Vz9B)LlkwCulBrqYhO<>(RL)=h0I)H||e~9yPM6e2T#~D+5sV$CGge<`CsV>`=AKxpqd+nbOzg",
    r"{pY{~Y8p^nlGuuzIK<YQRE3r>9hcl;=fBDy!75Un4sF<c$R_(Kp}SmBIZ*hl!H~2-KbpHWiJTb6#ao(H)YQ24lVpOMbXhGYi)o$8",
    r"s-QdzaFie_mgQvA9MrR`3&@^Zb078KRPC~hN8Tfw@^J#8IlaBpX0n+J+e&ImWO?g4z1(Gf`AdEQ6?fyT",
)


def group_numbers(codes: Sequence[str]) -> list[int] | None:
    """The class of each emoji of the sorted list; None when the list is not that of version 17."""
    if _digest(codes) != CODES_SHA256:
        return None
    return [letter - ord("a") for letter in zlib.decompress(base64.b85decode("".join(PACKED)))]


def main(path: str) -> None:
    """Prints CODES_SHA256 and PACKED for OpenMoji's data/openmoji.json."""
    groups = {emoji["hexcode"]: emoji["group"] for emoji in json.loads(Path(path).read_text())}
    letters = bytes(ord("a") + GROUPS.index(groups[code]) for code in sorted(groups))
    packed = base64.b85encode(zlib.compress(letters, 9)).decode()
    print("CODES_SHA256 =", repr(_digest(sorted(groups))))
    print("PACKED =", [packed[start : start + 100] for start in range(0, len(packed), 100)])


def _digest(codes: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(codes).encode()).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1])
