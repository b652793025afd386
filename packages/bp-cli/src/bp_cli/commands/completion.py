"""backprop completion."""

from __future__ import annotations

import click

POWERSHELL = """Register-ArgumentCompleter -Native -CommandName backprop -ScriptBlock {
    param($word, $ast, $cursor)
    $env:_BACKPROP_COMPLETE = 'zsh_complete'
    $env:COMP_WORDS = $ast.ToString()
    $env:COMP_CWORD = [Math]::Max(0, $ast.CommandElements.Count - [int]($word -ne ''))
    $lines = @(backprop)
    for ($i = 0; $i + 2 -lt $lines.Count; $i += 3) {
        $text = $lines[$i + 1]
        if ($text -like "$word*") {
            $told = if ($lines[$i + 2] -eq '_') { $text } else { $lines[$i + 2] }
            [System.Management.Automation.CompletionResult]::new($text, $text, 'ParameterValue', $told)
        }
    }
    Remove-Item Env:_BACKPROP_COMPLETE, Env:COMP_WORDS, Env:COMP_CWORD
}
"""


@click.command(
    epilog="\b\nExamples:\n  backprop completion bash >> ~/.bashrc\n  backprop completion fish > ~/.config/fish/completions/backprop.fish\n"
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish", "powershell"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell."""
    if shell == "powershell":
        click.echo(POWERSHELL)
        return
    from click.shell_completion import get_completion_class

    from bp_cli.root import cli

    found = get_completion_class(shell)
    if found is None:  # pragma: no cover - the choices above are Click's own
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(cli, {}, "backprop", "_BACKPROP_COMPLETE").source())
