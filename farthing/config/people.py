"""``[[dashboard.users]]``: who may sign in to the dashboard, as what."""

from typing import Final

from farthing.config import values
from farthing.config.values import Reader, Wrong, did_you_mean, shown

ROLES: Final = ("admin", "analyst", "team")
_HASH: Final = values.matching(
    r"\$argon2id\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+",
    "a password's hash as 'farthing dashboard password' prints it",
)
_USER: Final[dict[str, Reader]] = {
    "name": values.matching(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}", "a name of letters, digits and '_.@+-'"),
    "role": values.choice(*ROLES),
    "team": values.text,
    "password_hash": _HASH,
}


def users(value: object) -> object:
    """Users as records' fields; each name once, a team for team members and for nobody else."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Wrong(f"is {shown(value)}; sections with double brackets are expected: [[dashboard.users]]")
    found = [_user(place, item) for place, item in enumerate(value)]
    names = [one.get("name") for one in found]
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise Wrong(f"has {', '.join(twice)} more than once; every user needs a name of their own")
    return found


def _user(place: int, item: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    problems = []
    for key, value in item.items():
        if key not in _USER:
            problems.append(f"{key} is unknown{did_you_mean(key, _USER)}; allowed: {', '.join(_USER)}")
            continue
        try:
            found[key] = _USER[key](value)
        except Wrong as wrong:
            problems.append(f"{key} {wrong}")
    problems += [f"{key} is missing" for key in ("name", "role", "password_hash") if key not in item]
    if item.get("role") == "team" and "team" not in item:
        problems.append('team is missing; role = "team" sees one team only: name it')
    if item.get("role") in ("admin", "analyst") and "team" in item:
        problems.append('team means nothing here; only role = "team" is bound to one')
    if problems:
        raise Wrong(f"[{place}]: {'; '.join(problems)}")
    return found
