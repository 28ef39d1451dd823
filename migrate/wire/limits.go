package wire

// Version is the protocol version that this package speaks. See the history in the package documentation.
const Version = 1

// PageBytes is the size of a page of a sandbox's memory file.
const PageBytes = 4096

// Bounds on what a peer may make this side allocate or loop over. A value beyond its bound ends the connection.
const (
	// MaxControlBytes bounds one control message. A plan with its manifest is some tens of KiB.
	MaxControlBytes = 1 << 20

	// MaxBatchPages is the number of data pages in one TypePages frame.
	MaxBatchPages = 256

	// MaxPayloadBytes bounds a frame's payload, as sent and after decompression: MaxBatchPages pages, each in a
	// record of its own.
	MaxPayloadBytes = MaxBatchPages * (PageBytes + duplicateRecordBytes)

	// MaxFilePages bounds page numbers: a memory file of 16 TiB.
	MaxFilePages = 1 << 32

	// MaxStreams bounds the number of memory files of one sandbox, and of network interfaces.
	MaxStreams = 256

	// MaxDataConnections bounds the parallel data connections of one attempt.
	MaxDataConnections = 64

	// MaxFrameRanges is the number of ranges in one TypePunch, TypeCommitted, TypeMissing or TypeRequest frame.
	MaxFrameRanges = 16384

	// MaxPacketBytes bounds one network packet handed over between the hosts.
	MaxPacketBytes = 1 << 17

	// MaxTextBytes bounds a sentence, name or path in a control message.
	MaxTextBytes = 4096

	// MaxTerminals bounds the terminals of one sandbox: the container's own and those of exec'd processes.
	MaxTerminals = 64

	// MaxFates bounds the connections in one answer to a plan.
	MaxFates = 2048

	// MaxFindings bounds the findings in one answer to a plan.
	MaxFindings = 1024
)
