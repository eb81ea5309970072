// What a page does by itself: times in the viewer's zone, the live stream, older messages, switches without a reload.
// Every page works without it, by links and forms.

const events = document.body.dataset.events
const banner = document.getElementById('banner')
const feed = document.getElementById('feed')

// Times

const STYLES = {
  time: { timeStyle: 'short' },
  day: { day: 'numeric', month: 'short' },
  date: { dateStyle: 'medium' },
  full: { dateStyle: 'medium', timeStyle: 'short' },
  message: { timeStyle: 'short' }, // its day stands above it
  heading: { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' },
}

const language = document.documentElement.lang
const locale = navigator.languages?.find((each) => each.startsWith(language)) ?? language // en-GB where English is shown

/** Show each time of `root` in the viewer's zone; UTC stays on hover. */
function localTimes(root) {
  for (const time of root.querySelectorAll('time[datetime]')) {
    const at = new Date(time.dateTime)
    const today = new Date().toDateString() === at.toDateString()
    const style = STYLES[time.dataset.style === 'full' && today ? 'time' : time.dataset.style] ?? STYLES.full
    time.textContent = new Intl.DateTimeFormat(locale, style).format(at)
  }
}

/** Elements from HTML that the server made. */
function parse(html) {
  const template = document.createElement('template')
  template.innerHTML = html
  localTimes(template.content)
  return document.importNode(template.content, true) // of this document, so that what plays can be moved into it
}

/** A dated line above the first message of each day, in the viewer's zone. */
function separateDays() {
  const days = { [new Date(Date.now() - 86_400_000).toDateString()]: feed?.dataset.yesterday, [new Date().toDateString()]: feed?.dataset.today }
  let before = ''
  for (const line of feed?.querySelectorAll('.day') ?? []) if (!line.nextElementSibling?.matches('article')) line.remove()
  for (const article of feed?.querySelectorAll(':scope > article') ?? []) {
    const at = new Date(article.querySelector('.at time').dateTime)
    const day = at.toDateString()
    let line = article.previousElementSibling?.matches('.day') ? article.previousElementSibling : null
    if (day === before) {
      line?.remove()
    } else {
      if (!line) article.before(line = Object.assign(document.createElement('div'), { className: 'day' }))
      line.textContent = days[day] ?? new Intl.DateTimeFormat(locale, STYLES.heading).format(at)
    }
    before = day
  }
}

// What is put in place of something else: the focus, what was opened, typed and playing go on

function carry(before, after) {
  const opened = before.querySelectorAll('details')
  for (const [place, each] of after.querySelectorAll('details').entries()) each.open = opened[place]?.open ?? false
  for (const each of after.querySelectorAll('textarea[id]')) each.value = before.querySelector(`#${each.id}`)?.value ?? ''
  for (const each of after.querySelectorAll('audio,video')) {
    const same = [...before.querySelectorAll(each.localName)].find((old) => old.src === each.src)
    if (same) each.replaceWith(same)
  }
}

/** What takes the focus that `element` had. */
function refocus(place, element) {
  const words = (each) => `${each.localName} ${each.id || each.textContent}`
  const same = [...place.querySelectorAll('a,button,input,select,textarea,summary')].find((each) => words(each) === words(element))
  const aim = same ?? place.querySelector('h2') ?? place
  if (!same) aim.tabIndex = -1
  aim.focus({ preventScroll: true })
}

function swap(place, content) {
  const focused = place.contains(document.activeElement) ? document.activeElement : null
  carry(place, content)
  place.replaceChildren(content)
  if (focused) refocus(place, focused)
}

// Countdowns

let countdowns = []

function findCountdowns() {
  const now = performance.now()
  countdowns = [...document.querySelectorAll('[data-countdown]')].map((element) => ({
    element, until: now + Number(element.dataset.countdown) * 1000,
  }))
}

function countDown() {
  for (const { element, until } of countdowns) {
    const left = Math.max(0, Math.ceil((until - performance.now()) / 1000))
    const words = element.dataset.words.replace('#', String(left))
    if (element.textContent !== words) element.textContent = words
    element.closest('.codes')?.classList.toggle('expired', left === 0)
  }
}

// The live stream

let following = feed?.hasAttribute('data-live') ?? false // the newest message is in sight, and is to stay there
window.addEventListener('wheel', () => { following = atBottom() }, { passive: true })
window.addEventListener('touchmove', () => { following = atBottom() }, { passive: true })
window.addEventListener('keydown', () => { following = atBottom() })

let lost = 0
let source = null
let heard = '' // up to which message; the browser tells it when it reconnects, but not when we do

function listen() {
  if (!events) return
  source = new EventSource(heard ? `${events}${events.includes('?') ? '&' : '?'}heard=${heard}` : events)
  source.addEventListener('open', () => { lost = 0 })
  source.addEventListener('situation', (event) => showSituation(JSON.parse(event.data)))
  source.addEventListener('bubble', (event) => { heard = event.lastEventId; showBubble(JSON.parse(event.data)) })
  source.addEventListener('gap', showGap)
  source.addEventListener('over', (event) => { source.close(); location.assign(event.data) })
  source.addEventListener('error', () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000) // it was refused: the console starts anew
    if (++lost === 2) banner.replaceChildren(parse(`<p class="banner bad"></p>`)), banner.firstChild.append(document.body.dataset.lost)
  })
}

function showSituation({ name, read, pill, banner: words, panel }) {
  document.getElementById('pill')?.replaceChildren(parse(pill))
  banner.replaceChildren(parse(words))
  if (read && document.querySelector('[data-returns]')) return location.reload()
  const place = document.getElementById('panel')
  if (!place || !panel) return undefined
  swap(place, parse(panel))
  for (const element of document.querySelectorAll('.when-unlinked')) element.hidden = name === 'connected'
  findCountdowns()
  countDown()
  return undefined
}

function atBottom() {
  return window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 160
}

function showBubble({ id, parts, html }) {
  if (!feed) return
  const bubble = parse(html).firstElementChild
  const known = document.getElementById(`m${id}`)
  if (known?.dataset.version === bubble.dataset.version) return
  if (known?.matches('[data-part]')) return // part of an older message here, which the server no longer watches
  const follow = atBottom()
  for (const part of parts) {
    const alone = document.getElementById(`m${part}`)
    if (alone?.matches('article')) alone.remove() // it has found the message that it belongs to
  }
  if (known?.matches('article')) {
    const focused = known.contains(document.activeElement) ? document.activeElement : null
    carry(known, bubble)
    known.replaceWith(bubble)
    if (focused) focused === known ? bubble.focus({ preventScroll: true }) : refocus(bubble, focused)
  } else {
    const after = [...feed.querySelectorAll('article')].reverse().find((each) => each.dataset.order < bubble.dataset.order)
    if (!after && feed.querySelector('article')) return // older than what this page shows
    document.getElementById('nothing')?.remove()
    Object.assign(feed, { role: 'feed', ariaLabel: feed.dataset.label }) // empty, it is none
    after ? after.after(bubble) : feed.append(bubble)
    if (!follow) showBelow()
    tellNew()
  }
  separateDays()
  if (follow) window.scrollTo(0, document.documentElement.scrollHeight)
}

// A picture that comes later must not push the newest message out of sight.
feed?.addEventListener('load', () => { if (following) window.scrollTo(0, document.documentElement.scrollHeight) }, true)

let came = 0

/** For a screen reader: how many messages came, once a second at most. */
function tellNew() {
  if (came++) return
  setTimeout(() => {
    document.getElementById('came').textContent = feed.dataset.came.replace('#', new Intl.NumberFormat(language).format(came))
    came = 0
  }, 1000)
}

function showBelow() {
  if (document.querySelector('.below')) return
  const button = document.createElement('button')
  button.className = 'below'
  button.textContent = feed.dataset.new
  button.addEventListener('click', () => { window.scrollTo(0, document.documentElement.scrollHeight); button.remove() })
  feed.append(button)
}

function showGap() {
  if (!feed || document.querySelector('.gap')) return
  const link = document.createElement('a')
  link.className = 'button gap'
  link.href = ''
  link.textContent = feed.dataset.gap
  feed.append(link)
}

// Older and newer messages, by a link that is followed when it comes in sight

function loadMore(link, name, add) {
  if (!link || !feed) return
  const words = link.textContent
  let loading = false

  async function load() {
    if (loading || !link.isConnected) return
    loading = true
    link.textContent = feed.dataset.loading
    try {
      const url = new URL(link.href)
      url.searchParams.set('part', '1')
      const answer = await fetch(url)
      if (!answer.ok) throw new Error(String(answer.status))
      const part = parse(await answer.text()).firstElementChild
      add([...part.querySelectorAll(':scope > article')])
      link.textContent = words
      if (!part.dataset.more) return link.remove()
      url.searchParams.delete('part')
      url.searchParams.set(name, part.dataset.more)
      link.href = url.href
      inSight.unobserve(link)
      inSight.observe(link) // tells anew whether it is in sight: somebody may have scrolled on meanwhile
    } catch {
      link.textContent = link.dataset.failed
    } finally {
      loading = false
    }
  }

  // Several changes may come at once: the last one holds.
  const inSight = new IntersectionObserver((changes) => { if (changes.at(-1).isIntersecting) load() })
  link.addEventListener('click', (event) => { event.preventDefault(); load() })
  inSight.observe(link)
}

loadMore(document.getElementById('older'), 'before', (articles) => {
  const height = document.documentElement.scrollHeight
  feed.prepend(...articles)
  separateDays()
  window.scrollBy(0, document.documentElement.scrollHeight - height)
})
loadMore(document.getElementById('newer'), 'after', (articles) => { feed.append(...articles); separateDays() })

/** Scroll to an element: into the middle, or to its beginning if it is long. */
function reveal(element) {
  element.scrollIntoView({ block: element.offsetHeight < window.innerHeight / 2 ? 'center' : 'start' })
}

// Quotes jump to their message if the page has it

document.addEventListener('click', (event) => {
  const jump = event.target.closest?.('[data-jump]')
  const aim = jump && document.getElementById(jump.dataset.jump)
  if (!aim) return
  event.preventDefault()
  const bubble = aim.closest('article')
  document.querySelector('.marked')?.classList.remove('marked')
  bubble.classList.add('marked')
  reveal(aim)
  bubble.focus({ preventScroll: true })
})

// A voice note's waveform shows how far it was played

document.addEventListener('timeupdate', ({ target }) => {
  const bars = [...(target.closest?.('.voice')?.querySelectorAll('.wave rect') ?? [])]
  const played = bars.length * (target.currentTime / target.duration || 0)
  for (const [place, bar] of bars.entries()) bar.classList.toggle('played', place < played)
}, true)

// Keys: j and k, as in a feed reader, in the feed and in what a search found; / to search

const results = document.getElementById('results')

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input,select,textarea')) return
  if (document.querySelector('dialog[open]')) return
  if (event.key === '/' && document.body.dataset.search) {
    event.preventDefault()
    const field = document.getElementById('words')
    if (!field) return location.assign(document.body.dataset.search)
    field.focus()
    return field.select()
  }
  const step = { j: 1, k: -1 }[event.key]
  if (!step || !(feed || results)) return
  const all = [...(feed?.querySelectorAll('article') ?? results.querySelectorAll('a.result'))]
  const here = all.indexOf(document.activeElement.closest('article, a.result'))
  const next = all[here < 0 ? (feed ? all.length - 1 : 0) : here + step]
  next?.focus()
  next?.scrollIntoView({ block: 'nearest' })
})

// A part of a page that is read anew each second, while somebody sees it and the last reading is over

const part = document.querySelector('[data-refresh]')
let shown = null
let reading = false

async function refresh() {
  if (document.hidden || reading) return
  reading = true
  try {
    const answer = await fetch(part.dataset.refresh, { signal: AbortSignal.timeout(5000) })
    const html = answer.ok ? await answer.text() : shown
    if (html !== shown) swap(part, parse(html))
    shown = html
    const next = part.querySelector('[data-go]') // what the part waited for is there
    if (next) location.replace(next.href)
  } catch { /* the live stream says that the console does not answer */ } finally {
    reading = false
  }
}

if (part) setInterval(refresh, 1000)

// Switches and choices

document.addEventListener('submit', async (event) => {
  const form = event.target.closest('.switch-form')
  if (!form) return
  event.preventDefault()
  const button = form.querySelector('.switch')
  if (button.getAttribute('aria-busy')) return
  button.setAttribute('aria-busy', 'true')
  try {
    const on = form.elements.monitor.value === 'true'
    const answer = await fetch(form.action, { method: 'POST', body: new URLSearchParams(new FormData(form)) })
    if (!answer.ok) throw new Error(String(answer.status))
    button.setAttribute('aria-checked', String(on))
    form.elements.monitor.value = String(!on)
    const words = form.querySelector('.switch-words')
    words.textContent = on ? words.dataset.on : words.dataset.off
    const stored = document.getElementById('stored')
    if (stored && !form.closest('.gone')) {
      stored.dataset.count = String(Number(stored.dataset.count) + (on ? 1 : -1))
      stored.textContent = stored.dataset.words.replace('#', stored.dataset.count)
    }
  } catch {
    form.submit() // the page that says why
  } finally {
    button.removeAttribute('aria-busy')
  }
})

for (const button of document.querySelectorAll('[data-without-script]')) button.hidden = true
for (const select of document.querySelectorAll('[data-submits]')) select.addEventListener('change', () => select.form.submit())

for (const field of document.querySelectorAll('[data-filter]')) {
  field.addEventListener('input', () => {
    const rows = [...document.querySelectorAll(field.dataset.filter)]
    for (const row of rows) row.hidden = !row.dataset.words.includes(field.value.toLowerCase())
    const none = document.getElementById('none')
    if (none) none.textContent = rows.some((row) => !row.hidden) ? '' : field.dataset.none
  })
}

// Minutes behind UTC on the chosen day, which may be in summer time when today is not.
for (const field of document.querySelectorAll('[data-offset]')) {
  const dates = [...field.form.querySelectorAll('[type=date]')]
  const set = () => {
    const day = dates.find((each) => each.value)?.value
    field.value = String((day ? new Date(`${day}T00:00`) : new Date()).getTimezoneOffset())
  }
  field.form.addEventListener('change', set, true) // before a select submits
  set()
}

// Begin

localTimes(document)
separateDays()
setInterval(separateDays, 60_000) // today becomes yesterday
findCountdowns()
setInterval(countDown, 500)
if (feed?.hasAttribute('data-live')) window.scrollTo(0, document.documentElement.scrollHeight)
const marked = document.querySelector('.marked')
if (marked) { reveal(marked.querySelector('[data-marked]') ?? marked); marked.focus({ preventScroll: true }) }
listen()
window.addEventListener('pagehide', () => source?.close())
// What the stream says of a page that is being left must not lead elsewhere. A switch prevents its own submission.
window.addEventListener('submit', (event) => { if (!event.defaultPrevented) source?.close() })
