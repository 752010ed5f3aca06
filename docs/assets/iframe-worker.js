// Browsers start no worker from a page that lies on disk, and the search of the site is
// a worker. There, a hidden frame takes its place: the script runs in the frame, and
// messages to and from it are events.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.started = new Promise((resolve) => {
        const frame = document.createElement("iframe")
        frame.hidden = true
        frame.title = "search"
        frame.onload = () => {
          frame.onload = null
          const scope = frame.contentWindow
          const load = (path) =>
            new Promise((loaded, failed) => {
              const script = scope.document.createElement("script")
              script.src = path
              script.onload = loaded
              script.onerror = () => failed(new Error(`cannot load ${path}`))
              scope.document.body.append(script)
            })
          scope.importScripts = (...paths) =>
            paths.reduce((before, path) => before.then(() => load(path)), Promise.resolve())
          scope.postMessage = (data) =>
            this.dispatchEvent(new MessageEvent("message", { data }))
          load(url).then(() => resolve(scope))
        }
        document.body.append(frame)
      })
    }
    postMessage(data) {
      this.started.then((scope) =>
        scope.dispatchEvent(new scope.MessageEvent("message", { data }))
      )
    }
  }
}
