// Pictures open over the page. The arrow keys and buttons lead to the page's other pictures.

const viewer = document.getElementById('viewer')
const part = (name) => viewer.querySelector(`[data-${name}]`)
let shown = null // the address of the picture: its link may be drawn anew meanwhile, or go with its message

/** The links to all pictures of the page, which may have loaded more meanwhile. */
function pictures() {
  return [...document.querySelectorAll('a[data-viewer]')]
}

function show(link) {
  shown = link.href
  part('failed').hidden = true
  part('picture').hidden = false
  part('picture').src = link.href
  part('picture').alt = link.querySelector('img').alt
  part('caption').replaceChildren(...link.querySelector('[data-words]').cloneNode(true).children)
  part('message').href = link.dataset.message
  part('save').href = link.href
  const all = pictures()
  const place = all.indexOf(link)
  part('place').textContent = `${place + 1} / ${all.length}`
  part('previous').disabled = place === 0
  part('next').disabled = place === all.length - 1
  if (document.activeElement?.disabled) part('close').focus() // a disabled button takes no keys
}

function step(by) {
  const all = pictures()
  const next = all[all.findIndex((link) => link.href === shown) + by]
  if (next) show(next)
}

document.addEventListener('click', (event) => {
  const link = event.target.closest?.('a[data-viewer]')
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return
  event.preventDefault()
  show(link)
  viewer.showModal()
})

viewer.addEventListener('click', ({ target }) => {
  if (target === viewer || target.closest('[data-close]')) viewer.close()
  if (target.closest('[data-previous]')) step(-1)
  if (target.closest('[data-next]')) step(1)
})

viewer.addEventListener('keydown', (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
  if (!by) return
  event.preventDefault()
  step(by)
})

viewer.addEventListener('close', () => {
  part('picture').removeAttribute('src')
  const link = pictures().find((each) => each.href === shown)
  link?.focus({ preventScroll: true })
  link?.scrollIntoView({ block: 'nearest' })
})

part('picture').addEventListener('error', () => {
  if (!viewer.open) return
  part('picture').hidden = true
  part('failed').hidden = false
})
