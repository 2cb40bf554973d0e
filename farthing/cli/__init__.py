"""The command line: ``farthing COMMAND``. Every command is a thin shell around ports and reports.

Exit codes: 0 done, 1 the command found a problem (an invalid file, nothing under that id), 2 wrong usage or an error.
Commands are imported when they run, so that one command does not pay for the others.
"""

import importlib
from types import MappingProxyType
from typing import Any, Final

import click

from farthing.cli.context import App, Broken, Failed
from farthing.config.values import did_you_mean
from farthing.core.errors import FarthingError

COMMANDS: Final = MappingProxyType(
    {
        "check": ("farthing.cli.check:check", "Check the configuration and say what will run."),
        "serve": ("farthing.cli.serve:serve", "Run the gateway."),
        "dashboard": ("farthing.cli.dashboard:dashboard", "Who may sign in to the dashboard."),
        "demo": ("farthing.cli.demo:demo", "Run a complete example, without keys or network."),
        "status": ("farthing.cli.status:status", "Show what this installation holds."),
        "key": ("farthing.cli.key:key", "Create, list and revoke the keys of callers."),
        "budget": ("farthing.cli.budget:budget", "Set, explain and forecast budgets, and show what is left."),
        "alert": ("farthing.cli.alert:alert", "Alerts: list, test, acknowledge, mute."),
        "cache": ("farthing.cli.cache:cache", "Look into the caches of answers, and make them forget."),
        "report": ("farthing.cli.report:report", "Spend by any dimensions."),
        "why": ("farthing.cli.why:why", "Why spend changed: causes that sum to the difference."),
        "forecast": ("farthing.cli.forecast:forecast", "What the month will cost, with a band."),
        "anomalies": ("farthing.cli.anomalies:anomalies", "Cost out of the ordinary: list, explain, acknowledge."),
        "allocate": ("farthing.cli.allocate:allocate", "Whose the cost is: owners, shared pools, untagged."),
        "chargeback": ("farthing.cli.chargeback:chargeback", "What each owner is charged for a month."),
        "unit": ("farthing.cli.unit:unit", "Cost per outcome, user, customer or session."),
        "outcomes": ("farthing.cli.outcomes:outcomes", "What calls were good for: import, list."),
        "metrics": ("farthing.cli.metrics:metrics", "Unit costs, hit rates, waste, latency; targets."),
        "top": ("farthing.cli.top:top", "Spend as it happens."),
        "requests": ("farthing.cli.requests:requests", "The last requests, refused ones included."),
        "receipt": ("farthing.cli.receipt:receipt", "Open one request or entry: every line of its price."),
        "trace": ("farthing.cli.trace:trace", "One run of an agent, call by call."),
        "sql": ("farthing.cli.sql:sql", "Ask the ledger in SQL, read-only."),
        "import": ("farthing.cli.importing:import_", "Book a trace of elsewhere."),
        "reprice": ("farthing.cli.reprice:reprice", "Rate the past again with another price book."),
        "replay": ("farthing.cli.replay:replay", "What logged traffic would cost under another policy."),
        "experiment": ("farthing.cli.experiment:experiment", "Prove a saving by a holdout: start, watch, stop."),
        "savings": ("farthing.cli.savings:savings", "What was saved: measured, exact and modelled, each apart."),
        "reconcile": ("farthing.cli.reconcile:reconcile", "A provider's bill beside the ledger, gap by gap."),
        "export": ("farthing.cli.export:export", "Cost and usage in the FOCUS format."),
        "price": ("farthing.cli.price:price", "Look at the price book."),
        "optimize": ("farthing.cli.optimize:optimize", "What could cost less, and the policy that tries it."),
        "undo": ("farthing.cli.optimize:undo", "Take back the last change of optimize."),
        "batch": ("farthing.cli.batch:batch", "Batches at half the price: their ceiling, their results."),
        "estimate": ("farthing.cli.estimate:estimate", "What prompts would cost, as ranges."),
        "compare": ("farthing.cli.estimate:compare", "One prompt at several models: tokens, cost, whether it fits."),
        "calc": ("farthing.cli.calc:calc", "Work out bills and savings, with the formulas."),
        "capacity": ("farthing.cli.capacity:capacity", "What GPUs of your own cost beside an API."),
        "embedder": ("farthing.cli.embedder:embedder", "The model that finds similar questions: fetch, status."),
        "route": ("farthing.cli.route:route", "Train routers, judge them, and see where calls would go."),
        "eval": ("farthing.cli.eval:eval_", "Run an eval set across models: accuracy beside cost."),
        "explain": ("farthing.cli.explain:explain", "Decide a logged request again, and compare."),
        "tokens": ("farthing.cli.tokens:tokens", "Count the tokens of a text, and say how sure that is."),
        "sim": ("farthing.cli.sim:sim", "Run a simulated provider."),
        "baseline": ("farthing.cli.baseline:baseline", "The traffic by which pull requests are priced."),
        "diff": ("farthing.cli.diff:diff", "What a change of prompts and policy costs a month."),
        "ci": ("farthing.cli.ci:ci", "The gate of a pull request: ci check."),
        "maturity": ("farthing.cli.maturity:maturity", "How far the practice is, and what to do next."),
        "governance": ("farthing.cli.governance:governance", "Who owns the cost, and the NIST AI RMF."),
        "audit": ("farthing.cli.audit:audit", "Who changed policy, prices and keys."),
        "mcp": ("farthing.cli.mcp:mcp", "Serve cost questions to agents (Model Context Protocol, stdio)."),
        "emf": ("farthing.cli.emf:emf", "A gateway's figures as CloudWatch metrics on standard output."),
        "version": ("farthing.cli.status:version", "Print the version."),
    }
)
"""Name → (module:attribute, one line of help)."""


class LazyGroup(click.Group):
    """Imports a command when it is asked for, and turns expected errors into one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module_name, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute, None)
        except ModuleNotFoundError as error:
            if error.name != module_name:
                raise
            found = None
        if not isinstance(found, click.Command):
            raise Failed(f'"{cmd_name}" is not part of this installation.')
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's own, which looks for similar names among commands that are loaded: here none is yet."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f'No such command "{args[0]}"{did_you_mean(args[0], COMMANDS)}.')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in ``--help``, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; what goes wrong on purpose is one message and exit code 2."""
        try:
            return super().invoke(ctx)
        except FarthingError as error:
            raise Broken(str(error)) from error
        except BrokenPipeError:
            raise
        except UnicodeDecodeError as error:
            raise Broken(
                f"A file that was given is no UTF-8 text (byte {error.start:,}); save it as UTF-8."
            ) from error
        except OSError as error:
            raise Broken(f"{error.strerror or error}: {error.filename or 'the system refused'}") from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", metavar="DIR", help="Everything this installation writes [env: FARTHING_HOME].")
@click.option("--config", metavar="FILE", help="The configuration file [env: FARTHING_CONFIG].")
@click.version_option(package_name="farthing", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, home: str | None, config: str | None) -> None:
    """Every LLM call metered, priced, budgeted and booked."""
    app = ctx.ensure_object(App)
    app.home, app.config_path = home, config
