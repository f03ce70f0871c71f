"""Seeded generators of machine-made text: DNA, base64, hex, HTTP, logs, LaTeX, citations ...

Each takes a `random.Random` and returns one document of roughly 1 to 4 kB. They exist so that a
corpus with many clear domains needs no download; none of the sentences is borrowed.
"""

import base64
import json
from collections.abc import Callable
from random import Random

NOUNS = [
    "river",
    "model",
    "archive",
    "garden",
    "engine",
    "signal",
    "window",
    "teacher",
    "market",
    "winter",
    "protein",
    "village",
    "theorem",
    "letter",
    "harbour",
    "memory",
    "surface",
    "student",
    "mountain",
    "kernel",
    "circuit",
    "island",
    "recipe",
    "question",
    "bridge",
]
ADJECTIVES = [
    "small",
    "quiet",
    "linear",
    "early",
    "broken",
    "distant",
    "useful",
    "sparse",
    "golden",
    "narrow",
    "public",
    "strange",
    "dense",
    "simple",
    "northern",
    "careful",
    "hidden",
    "modern",
    "rapid",
    "common",
    "deep",
]
VERBS = [
    "opens",
    "follows",
    "measures",
    "carries",
    "explains",
    "crosses",
    "describes",
    "repairs",
    "contains",
    "reaches",
    "supports",
    "changes",
    "divides",
    "remembers",
    "replaces",
    "collects",
    "predicts",
    "returns",
]
ADVERBS = ["slowly", "often", "rarely", "quickly", "always", "almost", "again", "together", "clearly", "nearly"]
PLACES = ["in the north", "at night", "near the station", "by hand", "for years", "under the hill", "in June"]
SURNAMES = [
    "Abel",
    "Baxter",
    "Cho",
    "Dvorak",
    "Eriksen",
    "Fontaine",
    "Gupta",
    "Hansen",
    "Ito",
    "Jansen",
    "Kowalski",
    "Lindqvist",
    "Moreau",
    "Nakamura",
    "Okafor",
    "Petrov",
    "Quist",
    "Rossi",
    "Schmidt",
    "Tanaka",
    "Ueda",
    "Varga",
    "Weber",
    "Xu",
    "Yilmaz",
    "Zhang",
]
JOURNALS = [
    "PLoS ONE",
    "J. Appl. Phys.",
    "Nature",
    "Cell Rep.",
    "Phys. Rev. Lett.",
    "Proc. Natl. Acad. Sci. U.S.A.",
    "BMC Bioinformatics",
    "Ann. Math.",
    "IEEE Trans. Inf. Theory",
    "J. Mol. Biol.",
]


def sentence(rng: Random) -> str:
    """One plain English sentence from a tiny grammar."""
    subject = f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    words = f"{subject} {rng.choice(VERBS)} {rng.choice(['a', 'the', 'every'])} {rng.choice(NOUNS)}"
    if rng.random() < 0.5:
        words += " " + rng.choice(ADVERBS)
    if rng.random() < 0.4:
        words += " " + rng.choice(PLACES)
    if rng.random() < 0.3:
        words += f", and {rng.choice(SURNAMES)} {rng.choice(VERBS)} the {rng.choice(NOUNS)}"
    return words[0].upper() + words[1:] + "."


def prose(rng: Random, n: int) -> str:
    return " ".join(sentence(rng) for _ in range(n))


def dna(rng: Random) -> str:
    """FASTA records with codon-like repetition."""
    codons = ["".join(rng.choice("ACGT") for _ in range(3)) for _ in range(24)]
    records = []
    for _ in range(rng.randint(1, 3)):
        name = f">seq{rng.randint(1, 99999)} {rng.choice(['chr', 'contig', 'clone'])}{rng.randint(1, 22)}"
        body = "".join(rng.choice(codons) for _ in range(rng.randint(100, 350)))
        if rng.random() < 0.3:
            body, name = body.lower(), ""
        lines = [body[i : i + 60] for i in range(0, len(body), 60)]
        records.append("\n".join(([name] if name else []) + lines))
    return "\n".join(records) + "\n"


def _wrapped_base64(data: bytes, width: int) -> str:
    text = base64.b64encode(data).decode()
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


def base64_of_text(rng: Random) -> str:
    """Base64 whose payload is ASCII: a MIME part or a data URI."""
    body = _wrapped_base64(prose(rng, rng.randint(12, 30)).encode(), rng.choice([64, 76]))
    head = "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n"
    return (head if rng.random() < 0.5 else "") + body + "\n"


def base64_of_bytes(rng: Random) -> str:
    """Base64 whose payload is random bytes: certificates and keys."""
    kind = rng.choice(["CERTIFICATE", "PUBLIC KEY", "PGP MESSAGE"])
    body = _wrapped_base64(rng.randbytes(rng.randint(500, 1600)), 64)
    return f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"


def hexadecimal(rng: Random) -> str:
    """Hex dumps, digests and memory addresses."""
    style = rng.randrange(3)
    lines = []
    for i in range(rng.randint(25, 60)):
        data = rng.randbytes(16)
        if style == 0:
            pairs = " ".join(f"{b:02x}" for b in data)
            shown = "".join(chr(b) if 32 <= b < 127 else "." for b in data)
            lines.append(f"{16 * i:08x}  {pairs}  |{shown}|")
        elif style == 1:
            lines.append(f"{data.hex()}{rng.randbytes(16).hex()}  {rng.choice(NOUNS)}_{i}.bin")
        else:
            lines.append(f"0x{int.from_bytes(data[:6], 'big'):012x}: mov 0x{data[7]:02x}, r{i % 16}")
    return "\n".join(lines) + "\n"


def http_requests(rng: Random) -> str:
    """Requests and responses with headers."""
    out = []
    for _ in range(rng.randint(2, 5)):
        path = "/".join(rng.choice(NOUNS) for _ in range(rng.randint(1, 3)))
        out.append(
            f"{rng.choice(['GET', 'POST', 'PUT', 'DELETE'])} /{path}?id={rng.randint(1, 9999)} HTTP/1.1\r\n"
            f"Host: {rng.choice(NOUNS)}.example.{rng.choice(['com', 'org', 'net'])}\r\n"
            f"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:{rng.randint(60, 140)}.0) Gecko/20100101\r\n"
            f"Accept: text/html,application/json;q=0.9\r\nAccept-Encoding: gzip, deflate, br\r\n"
            f"Cookie: session={rng.randbytes(8).hex()}\r\nConnection: keep-alive\r\n\r\n"
            f"HTTP/1.1 {rng.choice(['200 OK', '404 Not Found', '301 Moved Permanently', '500 Internal Server Error'])}\r\n"
            f"Content-Type: text/html; charset=utf-8\r\nContent-Length: {rng.randint(10, 99999)}\r\n"
            f"Cache-Control: max-age={rng.randint(0, 3600)}\r\n\r\n"
        )
    return "".join(out)


def json_logs(rng: Random) -> str:
    """One JSON object per line, as services write them."""
    lines = []
    for i in range(rng.randint(8, 24)):
        record = {
            "ts": f"2024-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}T{rng.randint(0, 23):02d}:{i:02d}:07.{rng.randint(0, 999):03d}Z",
            "level": rng.choice(["INFO", "WARN", "ERROR", "DEBUG"]),
            "service": f"{rng.choice(NOUNS)}-{rng.choice(NOUNS)}",
            "msg": sentence(rng),
            "latency_ms": round(rng.expovariate(0.02), 2),
            "user": {"id": rng.randint(1, 10**6), "active": rng.random() < 0.5},
        }
        lines.append(json.dumps(record))
    return "\n".join(lines) + "\n"


def latex(rng: Random) -> str:
    """Sections with displayed mathematics."""
    letters, greek = "xyzuvwnmk", ["alpha", "beta", "lambda", "theta", "mu", "sigma", "phi"]

    def term() -> str:
        a, g = rng.choice(letters), rng.choice(greek)
        return rng.choice(
            [
                f"\\{g}_{{{a}}}",
                f"{a}^{{{rng.randint(2, 5)}}}",
                f"\\frac{{{a}}}{{\\{g}}}",
                f"\\sum_{{i=1}}^{{n}} {a}_i",
                f"\\int_0^\\infty f({a})\\,d{a}",
                f"\\mathbb{{R}}^{{{a}}}",
                f"\\left\\| {a} \\right\\|_2",
            ]
        )

    parts = [f"\\section{{On the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}}}\n\\label{{sec:{rng.choice(NOUNS)}}}\n"]
    for i in range(rng.randint(3, 7)):
        env = rng.choice(["theorem", "lemma", "proof", "definition"])
        parts.append(
            f"\\begin{{{env}}}\nLet ${term()} \\in {term()}$. {sentence(rng)} Then\n"
            f"\\begin{{equation}}\\label{{eq:{i}}}\n  {term()} + {term()} \\leq {term()} \\cdot {term()}\n\\end{{equation}}\n"
            f"by \\cite{{{rng.choice(SURNAMES).lower()}{rng.randint(1970, 2023)}}} and \\eqref{{eq:{i}}}.\n\\end{{{env}}}\n"
        )
    return "\n".join(parts)


def citations(rng: Random) -> str:
    """A numbered list of references."""
    lines = []
    for i in range(rng.randint(10, 25)):
        authors = ", ".join(f"{rng.choice(SURNAMES)} {rng.choice('ABCDEFGHJKLM')}" for _ in range(rng.randint(1, 4)))
        title = f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} and {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}".capitalize()
        page, year = rng.randint(1, 900), rng.randint(1965, 2023)
        doi = f" doi: 10.1371/journal.pone.{rng.randint(1, 9999999):07d}." if rng.random() < 0.4 else ""
        lines.append(
            f"{i + 1}. {authors} ({year}) {title}. {rng.choice(JOURNALS)} {rng.randint(1, 120)}: {page}-{page + rng.randint(2, 30)}.{doi}"
        )
    return "\n".join(lines) + "\n"


def nutrition(rng: Random) -> str:
    """Nutrition labels as tables of amounts."""
    rows = "Calories:kcal Total Fat:g Saturated Fat:g Cholesterol:mg Sodium:mg Carbohydrate:g Fiber:g Sugars:g Protein:g Vitamin C:mg Calcium:mg Iron:mg"
    names = [r.strip() for r in rows.replace("kcal ", "kcal|").replace("mg ", "mg|").replace("g ", "g|").split("|")]
    out = []
    for _ in range(rng.randint(2, 5)):
        out.append(
            f"Nutrition Facts: {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} cake\nServing Size {rng.randint(20, 250)} g\nAmount Per Serving  % Daily Value*"
        )
        for name in names:
            label, unit = name.split(":")
            out.append(f"  {label} {rng.uniform(0, 60):.1f} {unit}  {rng.randint(0, 99)}%")
        out.append("* Percent Daily Values are based on a 2,000 calorie diet.\n")
    return "\n".join(out)


def html(rng: Random) -> str:
    """Nested markup with attributes."""

    def node(depth: int, indent: str) -> str:
        tag = rng.choice(["div", "section", "ul", "p", "span", "table", "a"])
        attr = rng.choice([f' class="{rng.choice(NOUNS)}-{rng.choice(NOUNS)}"', f' id="{rng.choice(NOUNS)}"', ""])
        if tag == "a":
            attr += f' href="https://{rng.choice(NOUNS)}.example.org/{rng.choice(NOUNS)}.html"'
        if depth == 0 or rng.random() < 0.2:
            return f"{indent}<{tag}{attr}>{sentence(rng)}</{tag}>\n"
        inner = "".join(node(depth - 1, indent + "\t") for _ in range(rng.randint(1, 3)))
        return f"{indent}<{tag}{attr}>\n{inner}{indent}</{tag}>\n"

    body = "".join(node(3, "\t") for _ in range(rng.randint(2, 4)))
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n\t<title>{sentence(rng)}</title>\n</head>\n<body>\n{body}</body>\n</html>\n'


def legal(rng: Random) -> str:
    """Numbered clauses in the register of contracts."""
    out = [
        f'AGREEMENT made on {rng.randint(1, 28)} May {rng.randint(1990, 2024)} between {rng.choice(SURNAMES)} (the "Seller") and {rng.choice(SURNAMES)} (the "Buyer").\n'
    ]
    for i in range(1, rng.randint(6, 12)):
        duty = rng.choice(["indemnify and hold harmless", "notify in writing", "deliver to", "reimburse"])
        scope = rng.choice(
            [
                "notwithstanding any provision to the contrary",
                "to the fullest extent permitted by law",
                "within thirty (30) days of the Effective Date",
            ]
        )
        out.append(
            f"{i}.{rng.randint(1, 9)} The Seller shall, {scope}, {duty} the Buyer in respect of each {rng.choice(NOUNS)} hereunder. "
            f"No {rng.choice(['waiver', 'amendment', 'assignment'])} of Section {rng.randint(1, 9)} shall be effective unless executed by both Parties."
        )
    return "\n".join(out) + "\n"


GENERATORS: dict[str, Callable[[Random], str]] = {
    "dna": dna,
    "base64-text": base64_of_text,
    "base64-bytes": base64_of_bytes,
    "hex": hexadecimal,
    "http": http_requests,
    "json-logs": json_logs,
    "latex": latex,
    "citations": citations,
    "nutrition": nutrition,
    "html": html,
    "legal": legal,
}
"""Every generated domain and the function that writes one document of it."""
