/** The recipe's schema under the name by which the seams know it. */
export * from '../recipe/recipe.ts'
