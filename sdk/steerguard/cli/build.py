"""`steerguard build`: carry out a recipe and write an artifact folder. Loads torch only when it runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerguard.cli.model_option import ModelOption
from steerguard.errors import BuildError, RecipeError, SteerguardError
from steerguard.models.names import PACKAGED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress

    from steerguard.build.recipe import Recipe


_Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")]
_Out = Annotated[Path, typer.Option("--out", help="Folder to write the artifact to; must not exist.")]
_Registry = Annotated[Path | None, typer.Option("--registry", help="Local registry to add the artifact to.")]
_Figures = Annotated[Path | None, typer.Option("--figures", help="Figures that benchmarks/effect.py wrote.")]
_Cache = Annotated[Path | None, typer.Option("--cache", help="Folder for step results (default: the user cache).")]
_Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of the data files that a recipe of a cost model names.")
]

_Variant = Annotated[
    str | None, typer.Option("--variant", help="Name of the artifact's variant, for a model of yours.")
]
_Scale = Annotated[bool, typer.Option("--scale-blocks", help="Scale every list of blocks to the model's depth.")]
_Repo = Annotated[
    str | None, typer.Option("--base-repo", help="Where the model comes from (default: the folder's name).")
]
_Source = Annotated[
    str | None, typer.Option("--base-source", help="Which weights exactly (default: the folder's name).")
]


def build(
    recipe: _Recipe,
    model: ModelOption,
    out: _Out,
    registry: _Registry = None,
    figures: _Figures = None,
    cache: _Cache = None,
    data: _Data = None,
    variant: _Variant = None,
    scale_blocks: _Scale = False,
    base_repo: _Repo = None,
    base_source: _Source = None,
) -> None:
    """Build an artifact from a recipe; a killed build continues where it stopped."""
    # These take time to import, and `--help` must stay quick.
    import platformdirs
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(highlight=False)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    try:
        # Read the recipe before torch is loaded: a wrong field is said at once.
        from steerguard.build.recipe import load_recipe
        from steerguard.registry.local import open_registry

        parsed = load_recipe(_recipe_path(recipe))
        if out.exists():
            raise BuildError("The output folder exists already.", where=out, next_step="choose a new folder")
        _check_names(variant, scale_blocks=scale_blocks, base=(base_repo, base_source))
        # A registry that cannot take the artifact is said before the work.
        target = None if registry is None else open_registry(registry)
        from steerguard.build.artifact import build_artifact
        from steerguard.build.figures import effect_of

        effect = None if figures is None else effect_of(figures, parsed.document.metadata.family)
        from steerguard.models.loading import load_named_model

        loaded, tokenizer = load_named_model(model, "float32")
        if variant is not None:
            parsed = _adapted(parsed, loaded, model, variant, scale_blocks=scale_blocks, base=(base_repo, base_source))
        with bars:
            built = build_artifact(
                parsed,
                loaded,
                tokenizer,
                out=out,
                cache=cache or platformdirs.user_cache_path("steerguard") / "build",
                data_folder=data,
                effect=effect,
                progress=_Bars(bars),
            )
        for figure in built.figures:
            console.print(f"{figure['title']} ({figure['set']}): {figure['value']}, n = {figure['n']}", markup=False)
        if built.reused_steps:
            console.print(f"from the cache: {_counted(built.reused_steps)}", markup=False)
        console.print(f"{built.folder}  {built.digest}", markup=False)
        if target is not None:
            pin = target.add(built.folder)
            console.print(f"added to {registry}: {pin.family}/{pin.variant}@{pin.version}", markup=False)
    except SteerguardError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(1) from error


class _Bars:
    """Shows each build step as one bar."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def step(self, name: str, total: int) -> Callable[[int], None]:
        """Add a bar and return the function that moves it."""
        task = self._bars.add_task(name, total=total)
        return lambda done: self._bars.update(task, completed=done)


def _counted(steps: Sequence[str]) -> str:
    counts = Counter(steps)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())


def _check_names(variant: str | None, *, scale_blocks: bool, base: tuple[str | None, str | None]) -> None:
    if variant is None and (scale_blocks or any(base)):
        raise BuildError(
            "A build for another model needs a name of its own.",
            where="--variant",
            expected="--variant NAME beside --scale-blocks, --base-repo and --base-source",
            found="nothing",
        )


def _adapted(
    recipe: Recipe, model: Any, source: str, variant: str, *, scale_blocks: bool, base: tuple[str | None, str | None]
) -> Recipe:
    from steerguard.build.adapted_recipe import adapted_recipe
    from steerguard.models.blocks import decoder_blocks

    known = recipe.document.base
    # A path of this machine would say nothing to anybody else.
    repo, weights = (known.repo, known.source) if source == PACKAGED else (Path(source).resolve().name,) * 2
    return adapted_recipe(
        recipe,
        variant=variant,
        repo=base[0] or repo,
        source=base[1] or weights,
        num_blocks=len(decoder_blocks(model)) if scale_blocks else None,
    )


def _recipe_path(name: str) -> Path:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.exists():
        return path
    from steerguard.content import shipped_recipes

    shipped = shipped_recipes()
    if name not in shipped:
        raise RecipeError(
            "There is no such recipe.",
            expected=f"a file, or one of: {', '.join(shipped) or 'none shipped'}",
            found=name,
        )
    return shipped[name]
