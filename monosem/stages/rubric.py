"""`monosem rubric ANSWERS.csv KEY.json`: marks of a blind exercise. Both are plain files."""

from pathlib import Path

from monosem.errors import InputError, IntegrityError
from monosem.features.rubric import read_answers, score
from monosem.features.schema import RUBRIC_KEY_FIELDS
from monosem.store.plain import unpack_json


def score_rubric(answers: list[str], key_file: str) -> dict:
    """Marks over all files of answers to one exercise. Two files may not answer the same thing."""
    try:
        key = unpack_json(_read(key_file), key_file)
    except IntegrityError as error:
        raise InputError(f"{error}; give the answers first, then the site's data/<run>/rubric-key.json") from error
    missing = [name for name in RUBRIC_KEY_FIELDS if name not in key]
    if missing:
        raise InputError(f"{key_file}: {missing[0]}: missing; the site has this file as data/<run>/rubric-key.json")
    whole: dict = {}
    for file in answers:
        for place, points in read_answers(_read(file).decode("utf-8", "replace"), file, key).items():
            if place in whole:
                raise InputError(f"{file}: item={place[0]!r}, interval={place[1]!r}: answered in another file too")
            whole[place] = points
    if not whole:
        raise InputError(f"{answers[0]}: no answers in it")
    return score(whole, key)


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot read it: {error.strerror}") from error
