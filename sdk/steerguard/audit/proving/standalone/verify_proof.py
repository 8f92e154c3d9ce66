"""Check what `steerguard audit prove` wrote: `python verify_proof.py proof.json --key 'VERIFIER KEY FROM ITS OWNER'`."""
# RFC 6962 (tree), RFC 8032 (Ed25519), c2sp.org/signed-note, c2sp.org/tlog-checkpoint. Python 3.9 is all it needs.

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P  # The curve is y*y - x*x = 1 + D*x*x*y*y modulo P; a point is (x, y).
NOTE = re.compile(r"(steerguard-audit/(\S+)\n([0-9]+)\n(\S+)\n)\n((?:— [!-*,-~]+ \S+\n)+)")


def _need(condition: object, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _decoded(text: str) -> bytes:
    _need(base64.b64encode(base64.b64decode(text)).decode() == text, "its base64 is malformed")
    return base64.b64decode(text)


def _add(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    t = D * p[0] * q[0] * p[1] * q[1]
    return (p[0] * q[1] + p[1] * q[0]) * pow(1 + t, -1, P) % P, (p[1] * q[1] + p[0] * q[0]) * pow(1 - t, -1, P) % P


def _times(n: int, p: tuple[int, int]) -> tuple[int, int]:
    return (0, 1) if n == 0 else _add(_times(n - 1, p), p) if n % 2 else _times(n // 2, _add(p, p))


def _point(raw: bytes) -> tuple[int, int]:
    y, odd = int.from_bytes(raw, "little") % 2**255, raw[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, P // 8 + 1, P)
    xs = [x for r in (root, root * pow(2, P // 4, P)) for x in (r % P, -r % P) if (x * x % P, x % 2) == (square, odd)]
    _need(xs and y < P and len(raw) == 32, "its key or signature holds no point of the curve")
    return xs[0], y


def _valid(public: bytes, message: bytes, signature: bytes) -> bool:
    a, r, s = _point(public), _point(signature[:-32]), int.from_bytes(signature[-32:], "little")
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    return _times(8, a) != (0, 1) and s < ORDER and _times(s, _point(b"X" + b"f" * 31)) == _add(r, _times(k, a))


def _root(leaf: bytes, seq: int, size: int, path: list[bytes]) -> bytes:
    _need((size > 1) == bool(path), "its path has another length")
    half = 1 << (size - 1).bit_length() >> 1
    under = _root(leaf, seq % half, half if seq < half else size - half, path[:-1]) if path else leaf
    return hashlib.sha256(b"\1" + (under + path[-1] if seq < half else path[-1] + under)).digest() if path else leaf


def _checked(given: str, key: str, seq: int, record: str, checkpoint: str, path: list[str]) -> str:
    name, _, public = (*given.split("+", 2), "", "")[:3]
    raw, note = _decoded(public), NOTE.fullmatch(checkpoint)
    key_hash = hashlib.sha256(f"{name}\n".encode() + raw).hexdigest()[:8]
    _need(key == given == f"{name}+{key_hash}+{public}" and raw[0] == 1, "it was made for another key")
    text, log, size, root, lines = note.groups() if note else ("",) * 5
    signed = [(by, _decoded(one)) for by, one in re.findall(r"— (\S+) (\S+)\n", lines)]
    own = [one[4:] for by, one in signed if (by, one[:4].hex()) == (name, key_hash)]
    _need(own and all(_valid(raw[1:], text.encode(), one) for one in own), "the key did not sign its checkpoint")
    tree = _root(hashlib.sha256(b"\0" + record.encode()).digest(), seq, int(size), [_decoded(one) for one in path])
    placed = type(seq) is int and 0 <= seq < int(size) and [log, seq] == [json.loads(record)[n] for n in ("log", "seq")]
    _need(placed and record.isprintable() and tree == _decoded(root), "the record is not at this place in the tree")
    return f"record {seq} of log {log} is in the tree of {size} records that {name}+{key_hash} signed:\n{record}\n"


if __name__ == "__main__":
    try:
        _need(len(sys.argv) == 4 and sys.argv[2] == "--key", __doc__)
        document = json.loads(Path(sys.argv[1]).read_bytes())
        _need(document["format"] == "steerguard audit proof, version 1" and document["proofs"], "there is no proof")
        sys.stdout.write("".join([f"Proven: {_checked(sys.argv[3], **one)}" for one in document["proofs"]]))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        sys.exit(f"Not proven: {ascii(str(error))[1:-1]}")
