/** Shorter ones would be found everywhere. */
const shortest = 4

/** Lines of output with the secrets in them hidden, for commands that print what they were told. */
export function hideSecrets(secrets: Readonly<Record<string, string>>): (line: string) => string {
  const lines = Object.values(secrets)
    .flatMap((secret) => Buffer.from(secret, 'base64').toString('utf8').split('\n'))
    .map((line) => line.trim())
    .filter((line) => line.length >= shortest)
    .sort((a, b) => b.length - a.length)
  return (text) => lines.reduce((shown, line) => shown.replaceAll(line, '(hidden)'), text)
}
