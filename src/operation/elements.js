// Elements of the pages, made one by one: their policies admit no markup that is made of text.

const byId = (id) => document.getElementById(id)

/**
 * An element; its children are one or a list, in which lists stand for their members, and what is
 * false for nothing.
 */
function el(name, children = [], props) {
  const node = Object.assign(document.createElement(name), props)
  node.append(...[children].flat(Infinity).filter(Boolean))
  return node
}
