import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatReference, isLoopback, parseReference } from './reference.ts'

const digest = `sha256:${'0123456789abcdef'.repeat(4)}`

test('short names mean what they mean everywhere', () => {
  for (const [text, whole] of Object.entries({
    alpine: 'docker.io/library/alpine:latest',
    'alpine:3': 'docker.io/library/alpine:3',
    'ada/engine': 'docker.io/ada/engine:latest',
    'localhost/engine': 'localhost/engine:latest',
    'registry.example:5000/a/b/c:1.2': 'registry.example:5000/a/b/c:1.2',
    'registry.example/a_b/c--d': 'registry.example/a_b/c--d:latest',
    [`127.0.0.1:5000/x@${digest}`]: `127.0.0.1:5000/x@${digest}`,
    [`x:1@${digest}`]: `docker.io/library/x@${digest}`,
    '[::1]:5000/x': '[::1]:5000/x:latest',
  })) {
    assert.equal(formatReference(parseReference(text)), whole)
  }
})

test('what is no reference is refused with a reason', () => {
  for (const text of ['', 'Alpine', 'a//b', 'a:', 'a@sha256:12', 'a b', '--help', 'x:t@y@z', 'a/../b', '-x.y/a'])
    assert.throws(() => parseReference(text), /is not an image reference/, text)
})

test('only registries on this machine are spoken to without TLS', () => {
  for (const text of ['localhost:5000/x', '127.0.0.1/x', '127.8.9.1:1/x', '[::1]:5/x'])
    assert.ok(isLoopback(parseReference(text)), text)
  for (const text of ['x', '127.0.0.1.example.org/x', 'localhost.example/x', '128.0.0.1/x', '10.0.0.1:5000/x'])
    assert.ok(!isLoopback(parseReference(text)), text)
})
