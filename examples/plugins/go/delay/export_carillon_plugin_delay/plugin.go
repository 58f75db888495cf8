// Package export_carillon_plugin_delay is a delay strategy: a random pause and the time to type the text, longer for as long as
// the provider asks to slow down.
package export_carillon_plugin_delay

import (
	"encoding/json"
	"strconv"

	wit "go.bytecodealliance.org/pkg/wit/types"
	delay "wit_component/carillon_plugin_delay"
	"wit_component/carillon_plugin_types"
)

// At most this many times slower.
const slowest = 64

type answer = wit.Result[delay.Next, carillon_plugin_types.PluginError]

// NextDelay is called after each send.
func NextDelay(ctx carillon_plugin_types.Context, pace delay.Pace, state string) answer {
	var config struct {
		Min          float64 `json:"min_ms"`
		Max          float64 `json:"max_ms"`
		PerCharacter float64 `json:"per_character_ms"`
	}
	if err := json.Unmarshal([]byte(ctx.Config), &config); err != nil {
		return invalidConfig(err.Error())
	}
	if config.Min > config.Max {
		return invalidConfig("min_ms must not be greater than max_ms")
	}
	// The state is how many times slower the device is; empty at first. Twice as slow each time that the provider asks to slow
	// down, half as slow with each message that it takes.
	slower, err := strconv.Atoi(state)
	if err != nil {
		slower = 1
	}
	switch pace.LastOutcome {
	case delay.LastOutcome_Throttled:
		slower = min(slower*2, slowest)
	case delay.LastOutcome_Sent:
		slower = max(slower/2, 1)
	}
	// All randomness comes with the call, so that a call can be repeated exactly.
	pause := config.Min + (config.Max-config.Min)*(float64(ctx.Random)/(1<<32))
	typing := config.PerCharacter * float64(pace.TextLength)
	return wit.Ok[delay.Next, carillon_plugin_types.PluginError](delay.Next{
		DelayMs: (pause + typing) * float64(slower),
		State:   strconv.Itoa(slower),
	})
}

func invalidConfig(why string) answer {
	return wit.Err[delay.Next](carillon_plugin_types.MakePluginErrorInvalidConfig(why))
}
