"""Which channels of a generator's styles move one thing and little else: their ranking, and the choice of the best."""

from evaluation.style_channels.ranking import (
    BestChannels,
    ChannelRanking,
    RankedChannel,
    RankingSettings,
    rank_channels,
)

__all__ = ["BestChannels", "ChannelRanking", "RankedChannel", "RankingSettings", "rank_channels"]
