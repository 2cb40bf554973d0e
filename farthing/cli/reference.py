"""The command line's reference page, made from the commands themselves: ``python -m farthing.cli.reference``.

Written to ``docs/reference/cli.md``; the documentation test fails while that file says something else.
"""

import inspect

import click

from farthing.cli import COMMANDS, main
from farthing.cli.context import Failed

_HEAD = """# Command line

Made by `python -m farthing.cli.reference`; do not edit.

`farthing [--home DIR] [--config FILE] COMMAND …`

Exit codes: **0** done; **1** the command found a problem (an invalid file, nothing under that id, a refused import);
**2** wrong usage, or something on which the command rests does not work. Errors are one message on standard error.
Tables come as `--format table|json|csv|md`; JSON carries dollars as exact decimal strings (`*_usd`) beside integer
nano-dollars (`*_nusd`). Colour and progress bars appear on terminals only. No command sends anything anywhere, except
`serve` to the providers that are configured, `emf` to the gateway, `reconcile` to the report API and `price update`
to the address that they are told to ask.

Times: `30d`, `24h`, `45m`, `2w` (back from now), `now`, `today`, `yesterday`, `all`, `2026-11`, `2026-11-21`,
`2026-11-21T14:00Z`; UTC where no zone is written.
"""


_TYPES = {"integer range": "N", "integer": "N", "float range": "X", "float": "X"}


def reference() -> str:
    """The whole page."""
    context = click.Context(main, info_name="farthing")
    parts = [_HEAD]
    for name in COMMANDS:
        try:
            command = main.get_command(context, name)
        except Failed:
            continue
        if command is not None:
            parts += _command(command, f"farthing {name}")
    return "\n".join(parts).rstrip() + "\n"


def _command(command: click.Command, path: str) -> list[str]:
    if isinstance(command, click.Group):
        inner = [part for name, one in command.commands.items() for part in _command(one, f"{path} {name}")]
        return [f"## {path}", "", _prose(command), "", *inner]
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    usage = " ".join([path, *(_argument(one) for one in arguments)])
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    lines = [f"{'###' if path.count(' ') > 1 else '##'} {path}", "", f"`{usage}`", "", _prose(command), ""]
    if options:
        lines += ["| option | meaning |", "| --- | --- |", *(_option(one) for one in options), ""]
    return lines


def _prose(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").replace("\b", "")


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    if isinstance(argument.type, click.Choice):
        name = "|".join(str(choice) for choice in argument.type.choices)
    name = name if argument.nargs == 1 else f"{name}…"
    return name if argument.required else f"[{name}]"


def _option(option: click.Option) -> str:
    value = ""
    if isinstance(option.type, click.Choice):
        value = " " + "|".join(str(choice) for choice in option.type.choices)
    elif not option.is_flag:
        value = f" {option.metavar or _TYPES.get(option.type.name, option.type.name.upper())}"
    shown = isinstance(option.default, str | int | float) and not isinstance(option.default, bool)
    default = f" Default: `{option.default}`." if option.show_default and shown and option.default != "" else ""
    left = f"`{', '.join(option.opts)}{value}`".replace("|", "\\|")
    right = f"{(option.help or '').strip()}{default}".replace("|", "\\|").strip()
    return f"| {left} | {right} |"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
