// Both sides of the Node runs: node node_program.js ROLE PORT...
'use strict'
const { createHash } = require('crypto')
const cluster = require('cluster')
const http = require('http')
const net = require('net')
const { fork, spawn } = require('child_process')

const [role, ...ports] = process.argv.slice(2)
const port = Number(ports[0])
const BODY = Buffer.alloc(3_000_000, 'the quick brown fox jumps over the lazy dog. ')
const sum = (data) => createHash('sha256').update(data).digest('hex').slice(0, 16)

function answer (request, response) {
  const parts = []
  request.on('data', (part) => parts.push(part))
  request.on('end', () => {
    const body = Buffer.concat(parts)
    if (request.url === '/large') return response.end(BODY)
    if (request.url === '/chunks') {
      for (let i = 0; i < 500; i++) response.write(`chunk ${i}\n`)
      return response.end()
    }
    response.end(JSON.stringify({ url: request.url, sum: sum(body), length: body.length }))
  })
}

function request (agent, path, body) {
  return new Promise((resolve, reject) => {
    const made = http.request({ host: '127.0.0.1', port, path, agent, method: body ? 'POST' : 'GET' }, (response) => {
      const parts = []
      response.on('data', (part) => parts.push(part))
      response.on('end', () => resolve(Buffer.concat(parts)))
      response.on('error', reject)
    })
    made.on('error', reject)
    made.end(body)
  })
}

async function several (count, of) {
  return (await Promise.all([...Array(count).keys()].map(of))).join(',')
}

const roles = {
  // Both ends of everything are other processes: here are the servers.
  'http-server' () {
    http.createServer(answer).listen(port, '127.0.0.1')
  },
  'echo-server' () {
    net.createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(port, '127.0.0.1')
  },
  // Workers accept themselves (SCHED_NONE), or get connections from the parent (round robin).
  'cluster-server' () {
    cluster.schedulingPolicy = ports[1] === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR
    if (cluster.isPrimary) {
      for (let i = 0; i < 2; i++) cluster.fork()
      process.on('SIGTERM', () => cluster.disconnect(() => process.exit(0)))
    } else {
      process.on('SIGTERM', () => {})
      http.createServer(answer).listen(port, '127.0.0.1')
    }
  },
  // A child gets each connection, after the parent has answered some lines.
  'passing-server' () {
    const child = fork(__filename, ['passed'])
    process.on('SIGTERM', () => { child.disconnect(); child.on('exit', () => process.exit(0)) })
    child.on('message', () => {
      net.createServer((socket) => {
        let lines = 0
        socket.on('data', function taken (data) {
          lines += data.toString().split('\n').length - 1
          if (lines < 50) return socket.write(data)
          // The child answers this one, so that nothing comes in before it has the connection.
          socket.removeListener('data', taken)
          socket.pause()
          // Otherwise Node reads on, and throws away, until the child has told that it has the connection.
          socket._handle.readStop()
          child.send(data.toString(), socket)
        })
      }).listen(port, '127.0.0.1')
    })
  },
  passed () {
    process.send('ready')
    process.on('message', (unanswered, socket) => {
      socket.on('data', (data) => socket.write('child ' + data))
      socket.on('end', () => socket.end())
      socket.resume()
      socket.write('child ' + unanswered)
    })
  },
  // A program gets the connection as its standard input and output.
  'spawning-server' () {
    net.createServer({ pauseOnConnect: true }, (socket) => {
      const child = spawn('cat', { stdio: [socket, socket, 'inherit'] })
      child.on('exit', () => socket.destroy())
    }).listen(port, '127.0.0.1')
  },

  async 'http-client' () {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 6 })
    console.log(await several(400, async (i) => JSON.parse(await request(agent, `/${i}`, `body ${i}`)).sum))
    console.log(await several(8, async () => sum(await request(agent, '/large'))))
    console.log(await several(8, async () => sum(await request(agent, '/chunks'))))
    console.log(await several(4, async (i) => (await request(agent, `/up${i}`, BODY)).toString()))
    agent.destroy()
  },
  async 'short-client' () {
    console.log(await several(100, async (i) => JSON.parse(await request(new http.Agent(), `/${i}`, `body ${i}`)).sum))
  },
  'echo-client' () {
    const hash = createHash('sha256')
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    let left = 20
    const send = () => {
      while (left > 0) {
        left--
        if (!socket.write(Buffer.alloc(700_001, `block ${left}`))) return socket.once('drain', send)
      }
      socket.end()
    }
    send()
    socket.on('data', (data) => hash.update(data))
    socket.on('end', () => console.log(hash.digest('hex')))
  },
  async 'line-client' () {
    const one = (number) => new Promise((resolve, reject) => {
      const socket = net.connect(port, '127.0.0.1')
      let received = ''
      let turn = 0
      socket.on('data', (data) => {
        received += data
        // The next line when this one has been answered.
        if (received.split('\n').length - 1 < turn) return
        if (turn === 100) return socket.end()
        socket.write(`line ${turn++} of ${number}\n`)
      })
      socket.on('end', () => resolve(sum(received)))
      socket.on('error', reject)
      socket.write(`line ${turn++} of ${number}\n`)
    })
    for (let i = 0; i < 5; i++) console.log(await several(4, one))
  }
}
roles[role]()
