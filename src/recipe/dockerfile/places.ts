import type { FaultPlace } from '../../model/fault.ts'

/** A stretch of a Dockerfile's text that has lost its line breaks and comments, and still knows where it stood. */
export interface Placed {
  text: string
  /** Line and column of the character at `offset`; both count from 1. */
  at(offset: number): Position
}

export interface Position {
  line: number
  column: number
}

/** Mistakes found so far: reading goes on, so that all of them are told at once. */
export interface Mistakes {
  add(position: Position, message: string): void
  readonly places: FaultPlace[]
}

export function collectMistakes(file: string): Mistakes {
  const places: FaultPlace[] = []
  return {
    places,
    add({ line, column }, message) {
      places.push({ file, line, column, message })
    },
  }
}

/** A part of a placed text. */
export function slicePlaced({ text, at }: Placed, from: number, to = text.length): Placed {
  return { text: text.slice(from, to), at: (offset) => at(from + offset) }
}
