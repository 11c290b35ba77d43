import { connect } from 'tutti'

/**
 * Runs the same code in five copies of one prepared machine, and keeps none of them.
 *
 *   export TUTTI_ADDR=control.example:7447 TUTTI_TOKEN=… TUTTI_CA_FINGERPRINT=…
 *   node examples/sandbox.ts
 */
async function main(): Promise<void> {
  await using tutti = connect()
  await using sandbox = await tutti.sandboxes.create({ template: 'base', metadata: { example: 'yes' } })
  await sandbox.files.write('/srv/guess.sh', 'echo "$(hostname) guesses $(od -An -N1 -tu1 /dev/urandom)"\n')

  await using copies = new AsyncDisposableStack()
  const forks = await sandbox.fork(5)
  for (const fork of forks) copies.use(fork)
  for (const { code, stdout, stderr } of await Promise.all(forks.map((fork) => fork.exec('sh /srv/guess.sh'))))
    console.log(code === 0 ? stdout.trim() : stderr.trim())
}

if (import.meta.main) await main()
