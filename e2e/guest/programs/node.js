// A node program with data on its heap and outside of it, timers, a worker thread, a child process, and a client that stays connected to
// its own server. It speaks the protocol of lib.py.
'use strict';
const crypto = require('crypto');
const net = require('net');
const { fork } = require('child_process');
const { Worker, isMainThread, parentPort } = require('worker_threads');

const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');

function inThread() {
  parentPort.on('message', (n) => parentPort.postMessage(sha256('thread ' + n)));
}

function inChild() {
  process.on('message', (n) => process.send(sha256('child ' + n)));
}

function main() {
  process.stdout.write('start\n');
  const outside = crypto.randomBytes(16 << 20); // not on V8's heap
  const heap = new Map();
  for (let i = 0; i < 20000; i++) heap.set('key' + i, crypto.randomBytes(32).toString('hex'));

  const thread = new Worker(__filename);
  const child = fork(__filename, ['child']);
  const done = { timer: 0, thread: 0, child: 0, client: 0 };
  let failure = null;
  const expect = (who, got, want) => {
    if (got !== want) failure = failure || who + ' answered wrongly';
    done[who]++;
  };
  const pingPong = (who, port) => {
    let n = 0;
    const send = () => (who === 'thread' ? port.postMessage(n) : port.send(n));
    port.on('message', (answer) => {
      expect(who, answer, sha256(who + ' ' + n));
      n++;
      setTimeout(send, 10);
    });
    port.on('exit', () => { failure = failure || who + ' ended'; });
    send();
  };
  pingPong('thread', thread);
  pingPong('child', child);
  setInterval(() => done.timer++, 10);

  const digest = () => {
    const hash = crypto.createHash('sha256');
    for (const [key, value] of heap) hash.update(key + value);
    return { heap: hash.digest('hex'), outside: sha256(outside), pid: process.pid, child: child.pid };
  };
  const answers = {
    digest,
    echo: (text) => ({ text }),
    work: () => Object.fromEntries(Object.entries(done).map(([who, count]) => [who, { count, failure }])),
  };

  const server = net.createServer((socket) => {
    let rest = '';
    socket.on('data', (data) => {
      rest += data;
      for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
        const [word, ...args] = rest.slice(0, end).split(' ');
        rest = rest.slice(end + 1);
        socket.write(JSON.stringify(word in answers ? answers[word](...args) : { error: 'unknown question ' + word }) + '\n');
      }
    });
    socket.on('error', () => {});
  });
  server.listen(7000, '127.0.0.1', () => {
    const client = net.connect(7000, '127.0.0.1');
    let n = 0;
    const ask = () => client.write('echo ' + n + '\n');
    client.on('data', (data) => {
      expect('client', String(data), JSON.stringify({ text: String(n) }) + '\n');
      n++;
      setTimeout(ask, 10);
    });
    client.on('close', () => { failure = failure || 'the client lost its connection'; });
    client.on('connect', ask);
    process.stdout.write('ready\n');
  });
}

if (!isMainThread) inThread();
else if (process.argv[2] === 'child') inChild();
else main();
