/**
 * The demo's web server as it is fetched by URL: one executable file. It is a shell script around a few lines of
 * JavaScript because the only runtime that is certain to be on the machine is the one that runs Tutti itself.
 */
export function helloWebProgram(nodePath: string): string {
  return `#!/bin/sh
exec '${nodePath.replaceAll("'", "'\\''")}' - <<'PROGRAM'
const http = require('node:http')
const { TUTTI_ALLOCATION, TUTTI_SLOT, TUTTI_NODE, TUTTI_PORT_HTTP, TUTTI_ADDRESS, GREETING } = process.env
let served = 0
const server = http.createServer((request, response) => {
  served += 1
  // The checks of Tutti itself are not worth a line each.
  if (request.headers['user-agent'] !== 'tutti-check') console.log(request.method + ' ' + request.url)
  response.setHeader('content-type', 'text/plain')
  response.end(GREETING + ' from copy ' + TUTTI_SLOT + ' (' + TUTTI_ALLOCATION + ') on ' + TUTTI_NODE + ', answer ' + served + '\\n')
})
server.listen(Number(TUTTI_PORT_HTTP), TUTTI_ADDRESS, () => console.log('listening on http://' + TUTTI_ADDRESS + ':' + TUTTI_PORT_HTTP))
process.on('SIGTERM', () => process.exit(0))
PROGRAM
`
}
