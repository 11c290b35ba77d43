import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'

/** `tutti completion`: a few lines for the shell, which ask `tutti __complete` what may come next. */
export async function run(cli: Cli, { args }: Given): Promise<undefined> {
  const script = scripts[args[0] ?? '']
  if (script === undefined)
    throw new Fault('invalid', `completion is there for bash, zsh and fish, not for "${args[0]}"`)
  cli.stdout.write(script)
  return undefined
}

const scripts: Readonly<Record<string, string>> = {
  bash: `# tutti completion for bash; put this in ~/.bashrc:  source <(tutti completion bash)
_tutti() {
  local words
  words=$(tutti __complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  if [ "$words" = ":files" ]; then compopt -o default; COMPREPLY=(); return; fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}")
}
complete -F _tutti tutti
`,
  zsh: `#compdef tutti
# tutti completion for zsh; put this in ~/.zshrc:  source <(tutti completion zsh)
_tutti() {
  local -a answers
  answers=("\${(@f)$(tutti __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ "$answers" == ":files" ]]; then _files; else compadd -a answers; fi
}
compdef _tutti tutti
`,
  fish: `# tutti completion for fish; put this in ~/.config/fish/config.fish:  tutti completion fish | source
function __tutti_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l answers (tutti __complete -- $words[2..] 2>/dev/null)
  if test "$answers" = ":files"
    __fish_complete_path (commandline -ct)
  else
    printf '%s\\n' $answers
  end
end
complete -c tutti -f -a '(__tutti_complete)'
`,
}
